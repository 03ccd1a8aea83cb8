"""SQLite through SQLAlchemy: the only place that knows SQL. Speaks in the structs of `tenancy` and `wire`."""
