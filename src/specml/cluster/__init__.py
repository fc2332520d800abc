"""Ray clusters that run already: what they are asked by their dashboard's address, and a look at their nodes."""
