# The gateway as an image: numeric user, read-only root, nothing to write, no shell needed.
#   docker build -t bearer-proxy .

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The environment has no pip of its own: the base image's installs into it.
RUN python -m venv --without-pip /opt/bearer-proxy
COPY requirements.txt ./
RUN pip --python /opt/bearer-proxy/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
# setuptools came with the requirements, by hash, for this one step.
RUN pip --python /opt/bearer-proxy/bin/python install --no-compile --no-index --no-deps --no-build-isolation . \
    && pip --python /opt/bearer-proxy/bin/python uninstall --quiet --yes setuptools \
    && /opt/bearer-proxy/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/bearer-proxy/lib

FROM python:3.13-slim
LABEL org.opencontainers.image.title="bearer-proxy" \
      org.opencontainers.image.description="An authenticating reverse proxy: adds a Bearer token it obtains and keeps fresh" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base image has no byte code for the standard library, and a read-only container could not write any.
RUN python -m compileall -q --invalidation-mode unchecked-hash -x '/(site-packages|test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/bearer-proxy /opt/bearer-proxy
COPY config/proxy.yaml /etc/bearer-proxy/proxy.yaml
ENV PATH=/opt/bearer-proxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BEARER_PROXY_LISTEN=0.0.0.0:8080 \
    BEARER_PROXY_ADMIN=0.0.0.0:9464
WORKDIR /
USER 10001:10001
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s CMD ["bearer-proxy", "health"]
ENTRYPOINT ["bearer-proxy"]
CMD ["run"]
