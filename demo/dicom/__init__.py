"""The demonstration with a PACS, and the programs that it starts: the tests start them, too."""
