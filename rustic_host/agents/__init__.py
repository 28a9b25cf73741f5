"""Built-in agents, under the names that Rustic AI's specs use (see :mod:`rustic_host.guild.aliases`)."""
