"""What acts on the catalog and the implementations: command line, site generator, server, data."""
