module scalable-fastapi-system/hostkube/pause

go 1.24.0
