"""The ranking page: FastAPI, plain HTML, one small script; nothing is fetched from elsewhere."""
