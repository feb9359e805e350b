"""Many runs side by side, and the tables, pages and plots made from them: a room an experiment."""
