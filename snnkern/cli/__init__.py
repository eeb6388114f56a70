"""The command line: every verb is one call into the library."""
