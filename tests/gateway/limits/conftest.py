from tests.persistence.conftest import database, migrated_url, server_url

__all__ = ["database", "migrated_url", "server_url"]
