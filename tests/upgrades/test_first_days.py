"""Databases that were migrated while 0.1.0 was being written, whose SQL files were then edited in place.

Each statement makes what one of those edits left on such a database. They were found by running each of those commits'
migrations, then 0.1.0's, and comparing the schemas.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connections
from django.db.migrations.recorder import MigrationRecorder

from core import catalogue
from tests import databases
from tests.conftest import ROOT, Template
from tests.upgrades.conftest import RELEASES, pointed_at, psql
from tests.upgrades.test_upgrade import difference, schema
from trades import checks as trades
from trust import checks as trust
from wallets import checks as wallets

FIRST = next(release for release in RELEASES if release.version == "0.1.0")

OLD_TERMS = """
alter table subscription_terms drop constraint terms_have_what_their_mode_needs,
  add constraint terms_have_what_their_mode_needs check (
    mode in ('MULTIPLIER', 'EQUITY') or mode = 'FIXED' and fixed_lots is not null
    or mode = 'RISK' and not reverse and risk_pct is not null);
"""
TERMS_WITHOUT_A_LARGEST_VOLUME = """
create temporary table terms as select * from subscription_terms limit 1;
update terms set id = 999999, mode = 'EQUITY', max_volume = null;
insert into subscription_terms select * from terms;
"""
OLD_CLAIMS = """
drop trigger begins_owed on fee_claims;
drop trigger has_its_transfers on fee_claims;
drop function fee_claim_begins_owed(), fee_claim_has_its_transfers();
"""
OLD_BODIES = """
create or replace function hold_moves_the_held() returns trigger language plpgsql as $$ begin return new; end $$;
do $$ begin
  execute replace(pg_get_functiondef('ledger_move'::regproc), 'coalesce((args->>''shard'')::bigint, p.id)', 'p.id');
end $$;
"""
OLD_TRADES = """
drop trigger goes_with_its_close on active_trades;
drop function active_trade_goes_with_its_close();
alter table active_trades drop constraint active_trade_amounts_are_numbers;
alter table trade_history drop constraint trade_history_amounts_are_numbers;
alter table trade_reductions drop constraint trade_reduction_amounts_are_numbers;
drop index active_trades_copies_idx;
alter index active_trades_masters_idx rename to active_trades_strategy_idx;
create index active_trades_account_id_e2884205 on active_trades (account_id);
create index active_trades_strategy_id_08c73873 on active_trades (strategy_id);
create index trade_history_account_id_d2d7c1ad on trade_history (account_id);
create index trade_history_strategy_id_b3d95198 on trade_history (strategy_id);
alter table signed_results add constraint signed_results_key_id_fb59eee6_fk_bot_keys_id
  foreign key (key_id) references bot_keys (id) deferrable initially deferred;
"""
# A migration of trust was renamed, and changed, after some databases had run it.
OLD_TRUST = """
delete from django_migrations where app = 'trust' and name > '0003';
insert into django_migrations (app, name, applied) values ('trust', '0003_one_appeal_waits', now());
alter table trust_scores drop column by_hold;
update trust_holds set by_id = (select id from users where username = 'desk') where by_id is null;
alter table trust_holds alter by_id set not null;
drop function trust_incidents(text[], bigint[], timestamptz, timestamptz);
"""


@pytest.fixture
def first(template: Template, django_db_blocker: Any) -> Iterator[str]:
    """0.1.0's database; Django's aliases point at it. (The template's migrations have made the roles.)"""
    name = FIRST.restore()
    with pointed_at(name, django_db_blocker):
        yield name
    databases.drop(name)


def test_the_migration_updates_a_database_of_the_first_days(first: str, template: Template) -> None:
    psql(first, OLD_TERMS + OLD_CLAIMS + OLD_BODIES + OLD_TRADES)

    call_command("migrate", verbosity=0)

    assert catalogue.differences() == []
    assert difference(schema(first), schema(template.name)) == ""
    assert [*trades.faults(), *wallets.faults(), *trust.faults()] == []


def test_terms_that_the_new_check_forbids_are_named_and_stop_no_migration(first: str) -> None:
    psql(first, OLD_TERMS + TERMS_WITHOUT_A_LARGEST_VOLUME)

    call_command("migrate", verbosity=0)

    assert [difference.subject for difference in catalogue.differences()] == [
        "constraint subscription_terms.terms_have_what_their_mode_needs"
    ]


def test_a_renamed_migration_stops_the_upgrade_with_a_way_out(first: str, template: Template) -> None:
    psql(first, OLD_TRUST)

    with pytest.raises(ProgrammingError, match="trust_is_appealed_once_a_score"):
        call_command("migrate", verbosity=0)
    call_command("migrate", "trust", "0003_holds_and_appeals", fake=True, verbosity=0)
    call_command("migrate", verbosity=0)

    assert [found.subject for found in catalogue.differences()] == ["column trust_holds.by_id"]


def test_two_nodes_may_migrate_at_once(first: str, template: Template) -> None:
    environ = {**os.environ, **FIRST.environ(first)}
    command = [sys.executable, "-W", "ignore", "manage.py", "migrate"]
    nodes = [
        subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [node.communicate()[0] for node in nodes]

    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    assert sorted("No migrations to apply." in output for output in outputs) == [False, True]
    assert catalogue.differences() == []


def test_a_killed_migration_is_finished_by_the_next_run(first: str, template: Template) -> None:
    def applied() -> int:
        return len(MigrationRecorder(connections["owner"]).applied_migrations())

    environ, before = {**os.environ, **FIRST.environ(first)}, applied()
    command = [sys.executable, "-W", "ignore", "manage.py", "migrate", "--verbosity", "0"]
    node = subprocess.Popen(command, cwd=ROOT, env=environ)
    while node.poll() is None and applied() == before:
        time.sleep(0.01)
    node.kill()
    node.wait()

    call_command("migrate", verbosity=0)

    assert catalogue.differences() == []
