"""The page that watches runs while they train, and steers them: from records alone, on whichever machine sees them."""
