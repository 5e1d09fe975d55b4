"""Reference pages that are written from the code: the API's OpenAPI document, the settings."""
