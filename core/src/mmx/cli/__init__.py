"""The command line: ``mmx COMMAND``. Each command is a file, imported when it is called."""
