"""What serves one story each; nothing outside this folder imports from it."""
