"""The ledger's schema, as numbered steps that are never changed once released.

A database records in `user_version` how many steps it has seen. Step n stands at index n - 1.
"""

APPLICATION_ID = 0x686D6278  # "hmbx"

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE marks (
            name TEXT PRIMARY KEY,
            value INTEGER NOT NULL
        ) STRICT""",
        # Prompts repeat in every request of a conversation, so each text is kept once.
        """CREATE TABLE texts (
            number INTEGER PRIMARY KEY,
            hash BLOB NOT NULL UNIQUE,
            content TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE turns (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            conversation TEXT NOT NULL,
            time TEXT NOT NULL,
            model TEXT NOT NULL,
            adapter TEXT NOT NULL,
            sampling TEXT NOT NULL,
            finish_reason TEXT NOT NULL,
            prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
            completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
            salt BLOB,
            digest BLOB NOT NULL,
            chain BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX turns_by_conversation ON turns (conversation, number)",
        """CREATE TABLE messages (
            turn INTEGER NOT NULL REFERENCES turns (number),
            part TEXT NOT NULL CHECK (part IN ('prompt', 'new')),
            position INTEGER NOT NULL,
            role TEXT NOT NULL,
            provenance TEXT NOT NULL
                CHECK (provenance IN ('owner', 'assistant', 'tool', 'file', 'web', 'system')),
            text INTEGER NOT NULL REFERENCES texts (number),
            PRIMARY KEY (turn, part, position)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX messages_by_text ON messages (text)",
        """CREATE TABLE lessons (
            number INTEGER PRIMARY KEY,
            hash TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL
                CHECK (kind IN ('fact', 'preference', 'correction', 'demonstration')),
            subject TEXT NOT NULL,
            statement TEXT NOT NULL,
            value TEXT NOT NULL,
            sources TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN
                ('new', 'quarantined', 'active', 'undone', 'superseded', 'deleted')),
            supersedes TEXT,
            time TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX lessons_by_state ON lessons (state)",
        "CREATE INDEX lessons_by_superseded ON lessons (supersedes)",
    ),
    (
        # What a message holds besides its text, and what a request offered besides messages.
        "ALTER TABLE messages ADD COLUMN details INTEGER REFERENCES texts (number)",
        "CREATE INDEX messages_by_details ON messages (details) WHERE details IS NOT NULL",
        "ALTER TABLE turns ADD COLUMN offered INTEGER REFERENCES texts (number)",
        "CREATE INDEX turns_by_offered ON turns (offered) WHERE offered IS NOT NULL",
    ),
    (
        # The ids that an answer consists of (int32, little-endian), what the request was for, whose
        # it was, and the conversation that this one was begun from.
        "ALTER TABLE turns ADD COLUMN token_ids BLOB",
        "ALTER TABLE turns ADD COLUMN kind TEXT NOT NULL DEFAULT 'chat'",
        "ALTER TABLE turns ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE turns ADD COLUMN parent TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE feedback (
            turn INTEGER PRIMARY KEY REFERENCES turns (number),
            rating TEXT NOT NULL CHECK (rating IN ('good', 'bad', 'edited')),
            text TEXT NOT NULL,
            time TEXT NOT NULL
        ) STRICT""",
    ),
    (
        # Who found a lesson, why it waits, and what a demonstration or correction shows; the salt
        # of the digests that stand for secrets; conversations that are not written down.
        "ALTER TABLE lessons ADD COLUMN origin TEXT NOT NULL DEFAULT 'rule'",
        "ALTER TABLE lessons ADD COLUMN reason TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE lessons ADD COLUMN body TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE salts (
            purpose TEXT PRIMARY KEY,
            salt BLOB NOT NULL
        ) STRICT""",
        """CREATE TABLE private_conversations (
            conversation TEXT NOT NULL,
            owner TEXT NOT NULL,
            PRIMARY KEY (conversation, owner)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # What lives of a topic is asked for whenever something is told. LIKE reads no further than
        # a zero, so a search must know which texts have one; of them the numbers alone are kept.
        "CREATE INDEX lessons_by_subject ON lessons (subject, state)",
        "CREATE INDEX texts_with_zeros ON texts (number) WHERE instr(content, char(0))",
    ),
)
