"""What is done to rows before they are held out: joined, checked against their contract, set apart."""
