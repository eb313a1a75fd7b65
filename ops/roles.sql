-- Once, as the cluster's administrator, before the first migration. Change the passwords.
create role copydesk_owner login password 'change-me' createrole;
create role copydesk_app nologin;
create role copydesk_bot nologin;
create role copydesk login password 'change-me-too' in role copydesk_app, copydesk_bot;
grant copydesk_app, copydesk_bot to copydesk_owner with admin option;
create database copydesk owner copydesk_owner encoding 'UTF8' template template0;
