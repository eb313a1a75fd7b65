-- A score moves by one assessment at a time, and stays with its user and kind.
create or replace function trust_score_moves_by_one() returns trigger language plpgsql as $$
begin
  if new.version not in (old.version, old.version + 1)
     or (new.version = old.version and new.score <> old.score)
     or (new.id, new.user_id, new.kind) is distinct from (old.id, old.user_id, old.kind) then
    raise exception 'score % moves by one assessment at a time', old.id using errcode = 'CD006';
  end if;
  return new;
end $$;
