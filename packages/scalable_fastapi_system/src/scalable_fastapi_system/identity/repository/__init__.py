"""Everything that identity asks of the SQL store. The same statements on PostgreSQL, MySQL and SQLite."""
