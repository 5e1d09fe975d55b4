"""Behind `hack/cluster`: clusters for development and tests, our images, and an installation of the chart in them."""
