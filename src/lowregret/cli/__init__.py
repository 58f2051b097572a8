"""The command line: one file a verb, `verbs` lists them, and flags come from the specs. Torch comes when one runs."""
