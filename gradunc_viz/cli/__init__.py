"""The command line: ``gradunc``."""
