"""The kinds of keys, and what to do about a key that the desk refuses."""

from copybot.client import ACTIVE, Client
from copybot.errors import DeskError, Invalid, ScopeDenied

NEEDED = {"follow": "copier", "publish": "master"}
_REMEDIES = {
    "signature_invalid": "key or secret is wrong, or belongs to another desk: copy both again from the desk",
    "key_revoked": "the key was revoked: create a new one at the desk",
    "key_expired": "the key has expired: create a new one at the desk",
    "key_generation_retired": "a newer generation of the key is in use: use its key and secret",
    "ip_denied": "the key may not be used from this address: allow the address at the desk",
    "https_required": "url must begin with https://",
    "clock_outside_window": "this machine's clock is too far off: switch on time synchronisation",
}


def explained(refusal: DeskError) -> str:
    """The refusal's code, and what to do about it."""
    return f"{refusal.code}: {_REMEDIES.get(refusal.code, refusal.problem.get('detail', ''))}"


def kind_of(client: Client) -> str:
    """The key's kind: master, copier or readonly. Raises the errors of a call.

    The desk answers an empty report with the fields that are missing, and these tell the kind. An empty report has no
    effect and uses up no number.
    """
    try:
        client.send("POST", ACTIVE, {})
    except ScopeDenied:
        return "readonly"
    except Invalid as refusal:
        return "copier" if "strategy" in refusal.fields else "master"
    raise RuntimeError("the desk took an empty report: this program does not know such a desk")


def check_kind(client: Client, role: str) -> str:
    """The key's kind. Raises ScopeDenied if a key of this kind cannot be used for the role, follow or publish."""
    kind, needed = kind_of(client), NEEDED[role]
    if kind != needed:
        words = f"this is a {kind} key; to {role}, create a {needed} key at the desk"
        raise ScopeDenied(403, {"code": "scope_denied", "detail": words})
    return kind
