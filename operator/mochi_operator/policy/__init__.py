"""What holds for the whole run: acceptance, its deadline, its end; pure."""
