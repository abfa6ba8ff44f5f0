"""What the box remembers: ledger, lessons, objects, and which weights were served when.

Open a state directory with `state.open_state`; everything else hangs on the State that it returns.
"""
