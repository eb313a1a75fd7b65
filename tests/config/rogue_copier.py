"""`python -m tests.config.rogue_copier BUG …`: the drill's sandbox, with a copier that has these bugs."""

import hmac
import sys
from typing import Any

from copybot import packets
from copybot.copier import Copier
from copybot.guard import ExecutionGuard
from copybot.lease import Lease
from copybot.sandbox import Sandbox, Tapped, main
from copybot.state_store import State
from copybot.targets import snapshots_of

BUGS = set(sys.argv[1:])


class Guard(ExecutionGuard):
    def on_packet(self, fields: Any) -> None:
        if "believes_packets" in BUGS:
            fields = {**fields, "signature_v1": self.signature(fields)}
        if "takes_replays" in BUGS and int(fields["seq"]) <= self.seen and fields["action"] == packets.OPEN:
            packet = packets.read(fields, secrets=self.secrets, sub_id=self.sub_id)
            ordered(self.broker, self._magic(packet.trade_ref), packet, packet.volume)
        super().on_packet(fields)

    def signature(self, fields: Any) -> Any:
        text = [*(fields[name] for name in packets.FIELDS), "CP1", *(fields[name] for name in packets.TAIL)]
        return hmac.digest(packets.derived_key(self.secrets[1]), "|".join(text).encode(), "sha256").hex()

    def _apply_snapshot(self, snapshot: Any, positions: Any, *, is_new: Any) -> None:
        super()._apply_snapshot(snapshot, positions, is_new=is_new and "opens_what_is_old" not in BUGS)


class Rogue(Copier):
    def __post_init__(self) -> None:
        super().__post_init__()
        if "ignores_the_lease" in BUGS:
            self.lease = Unleashed(self.instance, self.monotonic_ms, self.clock_ms)
        if "opens_again" in BUGS:
            self.open_again(self.followed[0].guard.copies())

    def open_again(self, copies: Any) -> None:
        """Opens each copy on record that has no position, as if its order had been lost."""
        held = {position.magic for position in self.terminal.positions()}
        for copy in copies:
            if copy.state is not State.DEAD and copy.magic not in held:
                ordered(self.terminal, copy.magic, copy, copy.asked)

    def on_message(self, message: Any) -> None:
        if "believes_snapshots" in BUGS and message["type"] == "snapshot" and "trades" in message:
            for followed in self.followed:
                followed.guard.on_snapshot(snapshots_of(message)[followed.strategy], asked_at=followed.guard.seen)
        super().on_message(message)


class Unleashed(Lease):
    def covers(self, born_ms: Any) -> bool:
        return True


class Believing(Tapped):
    def check(self, answer: Any, attempt: Any) -> bool:
        return "believes_answers" in BUGS or super().check(answer, attempt)


class RogueSandbox(Sandbox):
    line_of, copier_of, guard_of = Believing, Rogue, Guard


def ordered(broker: Any, magic: Any, wanted: Any, volume: Any) -> None:
    broker.open(magic=magic, symbol=wanted.symbol, side=wanted.side, volume=volume, sl=None, tp=None)


if __name__ == "__main__":
    main(RogueSandbox)
