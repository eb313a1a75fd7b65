-- Every object of the schema "public" with its definition, one row each (core/catalogue.py). Names of owners are left
-- out, because they differ between desks: an object whose owner is not the owner of the migrations' table says so.
with ours as (
  select relowner as owner from pg_class where oid = 'django_migrations'::regclass
),
grants as (
  select 'function ' || f.oid::regprocedure as target, f.proowner as owner, f.oid, g.grantee, g.privilege_type,
         g.is_grantable
    from pg_proc f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) g
   where f.pronamespace = 'public'::regnamespace
  union all
  select case c.relkind when 'S' then 'sequence ' else 'table ' end || c.relname, c.relowner, c.oid, g.grantee,
         g.privilege_type, g.is_grantable
    from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char",
                                                              c.relowner))) g
   where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')
  union all
  select 'table ' || c.relname, c.relowner, c.oid, g.grantee, g.privilege_type || ' (' || a.attname || ')',
         g.is_grantable
    from pg_attribute a join pg_class c on c.oid = a.attrelid, aclexplode(a.attacl) g
   where c.relnamespace = 'public'::regnamespace and not a.attisdropped
  union all
  select 'schema public', n.nspowner, n.oid, g.grantee, g.privilege_type, g.is_grantable
    from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
   where n.nspname = 'public'
  union all
  select case d.defaclobjtype when 'r' then 'new tables' when 'S' then 'new sequences' when 'f' then 'new functions'
         else 'new objects of kind ' || d.defaclobjtype::text end, d.defaclrole, d.oid, g.grantee, g.privilege_type,
         g.is_grantable
    from pg_default_acl d, aclexplode(d.defaclacl) g
   where d.defaclnamespace in ('public'::regnamespace, 0)
)
select 'function ' || f.oid::regprocedure,
       concat_ws(' ', 'language', l.lanname, case f.provolatile when 'i' then 'immutable' when 's' then 'stable' end,
                 case f.proparallel when 's' then 'parallel safe' end, case when f.proisstrict then 'strict' end,
                 case when f.prosecdef then 'security definer' end, 'set ' || array_to_string(f.proconfig, '; '),
                 'returns', pg_get_function_result(f.oid), 'takes', '(' || pg_get_function_arguments(f.oid) || ')',
                 case when f.proowner <> ours.owner then 'of another owner' end,
                 'body', md5(replace(f.prosrc, E'\r\n', E'\n')))
  from ours, pg_proc f join pg_language l on l.oid = f.prolang
 where f.pronamespace = 'public'::regnamespace
   and not exists (select from pg_depend d where d.objid = f.oid and d.deptype = 'e')
union all
select 'trigger ' || c.relname || '.' || t.tgname,
       case t.tgenabled when 'A' then 'always' when 'O' then 'enabled' when 'R' then 'on replicas only'
                        else 'disabled' end
       || ': ' || pg_get_triggerdef(t.oid)
  from pg_trigger t join pg_class c on c.oid = t.tgrelid
 where c.relnamespace = 'public'::regnamespace and not t.tgisinternal
union all
select 'rule ' || c.relname || '.' || r.rulename, pg_get_ruledef(r.oid)
  from pg_rewrite r join pg_class c on c.oid = r.ev_class
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
union all
select 'policy ' || p.tablename || '.' || p.policyname,
       concat_ws(' ', p.permissive, p.cmd, p.roles, p.qual, p.with_check)
  from pg_policies p
 where p.schemaname = 'public'
union all
select 'constraint ' || c.relname || '.' || k.conname,
       pg_get_constraintdef(k.oid)
       || case when exists (select from pg_trigger t where t.tgconstraint = k.oid and t.tgenabled not in ('O', 'A'))
          then ', but its triggers are disabled' else '' end
  from pg_constraint k join pg_class c on c.oid = k.conrelid
 where c.relnamespace = 'public'::regnamespace and k.contype in ('c', 'f', 'p', 'u', 'x')
union all
select 'index ' || c.relname || '.' || i.relname,
       pg_get_indexdef(x.indexrelid) || case when x.indisvalid then '' else ', but it is not valid' end
  from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class c on c.oid = x.indrelid
 where c.relnamespace = 'public'::regnamespace
   and not exists (select from pg_constraint k where k.conindid = x.indexrelid and k.contype in ('p', 'u', 'x'))
union all
select 'column ' || c.relname || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                 case a.attidentity when 'd' then 'identity by default' when 'a' then 'identity always' end,
                 case when a.attgenerated = 's' then 'generated' when a.atthasdef then 'default' end,
                 pg_get_expr(d.adbin, d.adrelid))
  from pg_attribute a join pg_class c on c.oid = a.attrelid
       left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
union all
select 'table ' || c.relname,
       concat_ws(', ', case c.relpersistence when 'p' then 'permanent' else 'not permanent' end,
                 array_to_string(c.reloptions, ', '), case when c.relrowsecurity then 'row security' end,
                 case when c.relowner <> ours.owner then 'of another owner' end)
  from ours, pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
union all
select 'rights ' || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end || ' on ' || g.target,
       string_agg(distinct g.privilege_type || case when g.is_grantable then ' with grant option' else '' end, ', ')
  from grants g
 where g.grantee <> g.owner and g.grantee <> (select owner from ours)
   and (g.grantee = 0 or pg_get_userbyid(g.grantee)::text = any(%(roles)s)
        or g.privilege_type not in ('SELECT', 'USAGE'))
   and not exists (select from pg_depend d where d.objid = g.oid and d.deptype = 'e')
 group by g.grantee, g.target
union all
select 'role ' || r.rolname,
       concat_ws(', ', case when r.rolsuper then 'superuser' end,
                 case when r.rolcreaterole then 'createrole' end, case when r.rolcreatedb then 'createdb' end,
                 case when r.rolbypassrls then 'bypasses row security' end,
                 case when r.rolreplication then 'replication' end,
                 (select 'member of ' || string_agg(m.roleid::regrole::text, ', ' order by m.roleid::regrole::text)
                    from pg_auth_members m where m.member = r.oid))
  from pg_roles r
 where r.rolname = any(%(roles)s)
