-- What account_alarms() writes, nobody else writes.
select protect('bot_alarms', 'select');
