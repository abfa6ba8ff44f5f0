"""From the owner's words to a candidate adapter's verdict: lessons, examples, gate, report."""
