"""What searching memories finds, measured on texts with known answers."""
