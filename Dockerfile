# The server on a CPU, with a ready-made explainer; docs/howto/serve.md says how to build and run it.
FROM python:3.11-slim

# Options for pip, such as an index with wheels of torch for CPUs only: they are a tenth of the size.
ARG PIP_OPTIONS=""

WORKDIR /build
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN pip install --no-cache-dir ${PIP_OPTIONS} -c constraints.txt '.[serve,export,ready]' \
    && rm -rf /build

RUN useradd --create-home apercu
USER apercu
WORKDIR /home/apercu
ENV PYTHONUNBUFFERED=1

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["apercu"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--device", "cpu"]
