"""Groups of commands of `holdfast`, one module each. What a command needs is imported when it runs."""
