"""Many runs side by side, and the tables and plots made from them."""
