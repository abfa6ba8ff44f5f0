"""Secrets in commands and settings, where a program's own grammar says which word is one.

The one idea: no word of any language is needed where a program wants a secret. Invariant: each
pattern is bounded and begins at its sign or at most a line before it.
"""

from homebox.memory.secrets.cues import Cue, at_line, cue
from homebox.memory.secrets.values import QUOTED, argument, given, lettered, mounted, told

_FLAG = r"[^\n|]{0,150}?\s"

COMMANDS: tuple[Cue, ...] = (
    cue(
        "password",
        "-pass|-pwd|-token|-secret|-api|-auth|-access",
        r"-(?:pass|password|passwd|pwd|passphrase|token|secret|api-?key|auth-token|access-key"
        r"|secret-key)(?:=|[ ]{1,2})" + QUOTED,
        check=argument,
    ),
    cue(
        "password",
        "mosquitto_|ipmitool|unzip|zip ",
        rf"(?:mosquitto_\w+|ipmitool|unzip|zip)\b(?-i:{_FLAG}-P[ ]?){QUOTED}",
        check=told,
    ),
    cue(
        "password",
        "ldap",
        rf"ldap(?:search|modify|add|delete|whoami|passwd)\b(?-i:{_FLAG}-w[ ]?){QUOTED}",
        check=told,
    ),
    cue("password", "ssh-keygen", rf"ssh-keygen\b(?-i:{_FLAG}-[NP][ ]?){QUOTED}", check=told),
    cue(
        "password",
        "keytool|jarsigner",
        rf"(?:keytool|jarsigner)\b{_FLAG}-(?:storepass|keypass)[ ]{QUOTED}",
        check=told,
    ),
    cue("password", "wpa_passphrase", rf"wpa_passphrase[ ]\S{{1,40}}[ ]{QUOTED}", check=told),
    cue("password", "nmcli", rf"nmcli\b{_FLAG}password[ ]{QUOTED}", check=told),
    cue("password", "lftp", rf"lftp\b{_FLAG}-u[ ]?\w[\w.@-]{{0,40}},{QUOTED}", check=told),
    cue(
        "password",
        "sqlplus",
        r"sqlplus[ ](?:-\w+[ ])?\w[\w.-]{0,40}/(?P<value>[^\s@/]{3,60})",
        check=told,
    ),
    cue("password", "<(echo", r"<\(echo[ ](?:-n[ ])?(?P<value>[^\s)]{4,80})\)", check=told),
    cue("password", "password=", r"password=(?P<value>[^\s,;\"']{4,80})", check=mounted),
    cue(
        "password",
        "sudo -s",
        rf"[^\n]{{0,100}}?echo[ ]{QUOTED}[ ]?\|[ ]?sudo -S",
        seek=at_line,
        check=given,
    ),
    cue("password", "sqlcmd|bcp ", rf"(?:sqlcmd|bcp)\b(?-i:{_FLAG}-P[ ]?){QUOTED}", check=told),
    cue(
        "password",
        "smbclient|cifs|rpcclient",
        rf"(?:smbclient|rpcclient|cifs)\b{_FLAG}-U[ ]?[^\s%]{{1,60}}%{QUOTED}",
        check=given,
    ),
    cue(
        "password",
        "htpasswd",
        rf"htpasswd[ ]+(?:-\w+[ ]+){{0,4}}-\w*b\w*[ ]+(?:-\w+[ ]+)*\S+[ ]+\S+[ ]+{QUOTED}",
        check=given,
    ),
    cue("password", "net use", rf"net use\b{_FLAG}/user:\S{{1,60}}[ ]+{QUOTED}", check=given),
    cue("password", "net user", rf"net user[ ]+\S{{1,60}}[ ]+{QUOTED}", check=lettered),
    cue(
        "password",
        "chpasswd",
        r"[^\n]{0,60}?[\"']?\w[\w.-]{0,40}:(?P<value>[^\s\"':|]{4,80}"
        r")[\"']?[ ]?\|[ ]?(?:sudo )?chpasswd",
        seek=at_line,
        check=given,
    ),
    cue("password", "pass:", r"pass:(?P<value>[^\s\"']{4,120})", check=told),
    cue(
        "password",
        "xfreerdp|rdesktop",
        rf"(?:xfreerdp|rdesktop)\b{_FLAG}(?:/p:|-p[ ])(?P<value>\S{{4,80}})",
        check=given,
    ),
    cue(
        "password",
        "convertto-securestring",
        rf"convertto-securestring[ ](?:-string[ ])?{QUOTED}",
        check=given,
    ),
    # Settings whose names say it, in capitals: the value may be any word.
    cue(
        "api-key",
        "_secret=|_passphrase=|_pass=|_pwd=|_password=|_secret_key=|_salt=",
        rf"(?-i:_(?:SECRET|PASSPHRASE|PASS|PWD|PASSWORD|SECRET_KEY|SALT))=(?:{QUOTED})(?=\s|\Z)",
        check=told,
    ),
)
