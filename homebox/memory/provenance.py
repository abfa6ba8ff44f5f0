"""Who produced the bytes of a message: the ground on which lessons may or may not be built.

The one idea: a role says how a message is shown to the model, provenance says whose words it
holds. Only the owner's words become lessons.
"""

OWNER = "owner"
ASSISTANT = "assistant"
TOOL = "tool"
FILE = "file"
WEB = "web"
SYSTEM = "system"
PROVENANCES = (OWNER, ASSISTANT, TOOL, FILE, WEB, SYSTEM)

_OF_ROLE = {
    "user": OWNER,
    "assistant": ASSISTANT,
    "tool": TOOL,
    "function": TOOL,
    "system": SYSTEM,
    "developer": SYSTEM,
}


def provenance_of(role: str) -> str:
    """Return the provenance of a message of that role; an unknown role is trusted like a tool."""
    return _OF_ROLE.get(role, TOOL)


def may_teach(provenance: str) -> bool:
    """Tell whether words of that provenance may become lessons without the owner's approval."""
    return provenance == OWNER
