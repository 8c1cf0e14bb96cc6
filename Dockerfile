# The hub for the distributed mode: no Java in it. The embedded mode needs the extra: --build-arg EXTRAS=[embedded].
# The version is the one of stack/versions.env.
ARG PYTHON_VERSION=3.11.14

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ARG EXTRAS=
WORKDIR /src
RUN python -m venv /opt/hub
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY hub ./hub
COPY cdc ./cdc
COPY connectors ./connectors
COPY migrations ./migrations
COPY examples ./examples
RUN /opt/hub/bin/pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS}" && /opt/hub/bin/pip check

FROM python:${PYTHON_VERSION}-slim-bookworm
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/hub --create-home hub
COPY --from=build /opt/hub /opt/hub
ENV PATH=/opt/hub/bin:$PATH PYTHONUNBUFFERED=1
USER hub
# Mount a project here, or name another folder with --project.
WORKDIR /project
EXPOSE 8080
# Of a container with the console in it; compose.yaml has another one for the other roles.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["hub"]
CMD ["run"]
