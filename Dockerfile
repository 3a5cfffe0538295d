# The service (docs/serve.md): docker build -t joulecast . && docker run -p 8750:8750 joulecast
FROM python:3.12-slim
RUN useradd --create-home joulecast
WORKDIR /opt/joulecast
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[serve,hub]' && rm -rf /opt/joulecast/*
USER joulecast
WORKDIR /home/joulecast
EXPOSE 8750
HEALTHCHECK CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8750/health', timeout=3)"
ENTRYPOINT ["joulecast", "serve", "--host", "0.0.0.0"]
