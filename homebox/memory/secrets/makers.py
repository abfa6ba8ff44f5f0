"""Secrets that the makers' own forms show, and blocks between lines of dashes.

The one idea: such a form is so particular that nothing else has it, so no word beside it is needed.
Invariant: every pattern is bounded, so that no text takes longer than its length allows.
"""

import re
from collections.abc import Iterator

from homebox.memory.secrets.view import Found

# Forms that the makers of keys publish; each begins where no letter or digit stands before it.
_MAKERS = (
    r"sk-(?:proj-|svcacct-|admin-|ant-(?:api|sid|admin)\d\d-|or-v1-|lf-)?[\w-]{16,}",  # OpenAI etc.
    r"(?:gsk|hf|r8|glsa|npm|sbp|ntn|pat|fo1|dckr_pat|shpat|shpss|shpca|shppa|rpa|nvapi)"
    r"[_-][\w-]{20,}",
    r"(?:xai|pplx|tvly|lsv2|glpat|glptt|gldt|glrt|tskey|key|pscale_tkn|NRAK|PMAK|phc|phx|csk)"
    r"[-_](?=[\w-]{0,30}\d)[\w-]{16,}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # Amazon
    r"gh[pousr]_\w{20,}",
    r"github_pat_\w{22,}",
    r"xox[abeoprs]-[\w.-]{10,}",  # Slack
    r"xapp-\d-[\w-]{10,}",
    r"hooks\.slack\.com/(?:services|workflows)/[\w/]{20,}",
    r"discord(?:app)?\.com/api/webhooks/\d{8,}/[\w-]{20,}",
    r"[MNO][A-Za-z\d_-]{23,27}\.[\w-]{6,7}\.[\w-]{27,45}",  # Discord
    r"(?:sk|rk|pk)_(?:live|test)_\w{10,}",  # Stripe
    r"whsec_[\w+/=]{16,}",
    r"AIza[\w-]{35}",  # Google
    r"GOCSPX-[\w-]{20,}",
    r"ya29\.[\w-]{20,}",
    r"1//0[\w-]{30,}",
    r"SG\.[\w-]{16,32}\.[\w-]{16,64}",  # SendGrid
    r"(?:SK|AC)[0-9a-f]{32}",  # Twilio
    r"pypi-[\w-]{40,}",
    r"do[opr]_v1_[0-9a-f]{32,}",  # DigitalOcean
    r"sq0(?:atp|csp|idp)-[\w-]{20,}",  # Square
    r"EAAA[\w-]{50,}",
    r"\d{8,10}:AA[\w-]{32,34}",  # Telegram
    r"lin_api_\w{20,}",
    r"secret_[A-Za-z\d]{32,}",  # Notion
    r"fig[dou]_[\w-]{20,}",
    r"dapi[0-9a-f]{32}",  # Databricks
    r"hv[sbr]\.[\w-]{20,}",  # Vault
    r"dp\.(?:pt|st|ct|sa|scim|audit)\.\w{20,}",
    r"sntr(?:ys|yu)_[\w+/=-]{20,}",
    r"dt0[a-z]\d\d\.[A-Z\d]{24}\.[A-Z\d]{32,}",
    r"ATATT3[\w=-]{20,}",  # Atlassian
    r"ATCTT3[\w=-]{20,}",
    r"FlyV1 ?[\w+/=,-]{30,}",
    r"AGE-SECRET-KEY-1[A-Z\d]{50,}",
    r"(?:nsec|xprv|yprv|zprv|tprv)1?[a-zA-Z\d]{50,}",  # Nostr, BIP 32
    r"PuTTY-User-Key-File-\d",
    r"hb-[\w-]{20,}",
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{0,}",
    r"A3T[A-Z\d]{17}",
    r"oauth2?_[\w-]{24,}",
    r"rnd_\w{20,}",
    r"tfp_\w{30,}",
    r"[\w-]{14}\.atlasv1\.[\w=-]{60,}",
    r"sha256~[\w-]{40,}",  # OpenShift
    r"amzn\.mws\.[0-9a-f-]{36}",
    r"cio[A-Za-z\d]{32}",
    r"EZ[AT]K[A-Za-z\d]{40,}",
    r"duffel_(?:test|live)_[\w-]{30,}",
    r"PRVKEY[\w-]{16,}",
)
MAKERS = re.compile(rf"(?<![A-Za-z\d])(?:{'|'.join(_MAKERS)})")
JWT = re.compile(r"eyJ[\w-]{8,}\.")
# Blocks between lines of dashes; those that are public are no secrets.
PEM = re.compile(r"-----BEGIN ([A-Z\d ]{0,40})-----")
PUBLIC = (
    *("CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL", "PUBLIC KEY", "RSA PUBLIC KEY"),
    *("PGP PUBLIC KEY BLOCK", "PGP SIGNATURE", "PGP SIGNED MESSAGE", "SSH SIGNATURE"),
)
BEGIN, END = "-----BEGIN ", "-----END "
PUBLISHED = "public"
_LINES = re.compile(r"(?:[A-Za-z\d+/=:, -]{0,80}(?:\r?\n|\\n|\Z)){1,400}")


def blocks(text: str) -> Iterator[Found]:
    """Yield private keys between lines of dashes, and what is public between such lines."""
    place, close = text.find(BEGIN), 0
    while place >= 0:
        begin = PEM.match(text, place)
        end = place + 1
        if begin:
            if 0 <= close < begin.end():
                close = text.find(END, begin.end())
            end = _block_end(text, begin, close)
            yield Found(place, end, PUBLISHED if begin.group(1).strip() in PUBLIC else "pem")
        place = text.find(BEGIN, end)


def _block_end(text: str, begin: "re.Match[str]", close: int) -> int:
    """Return where a block ends, or, if that is not there, what looks like its content."""
    end = f"{END}{begin.group(1)}-----"
    if close >= 0 and text.startswith(end, close):
        return close + len(end)
    match = _LINES.match(text, begin.end())
    return match.end() if match else begin.end()
