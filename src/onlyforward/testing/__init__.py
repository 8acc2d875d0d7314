"""The laws that every member obeys, for this project's tests and for users' own extensions."""
