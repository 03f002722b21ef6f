"""The load: what reads from a mount, measures each read and checks each byte. Runs as a process of its own."""
