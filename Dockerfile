# mailsender as an image; docs/containers.md tells how to build and run it.

# Any image with a Python 3.11 or later and its venv module will do.
ARG BASE=python:3.11.14-slim-bookworm
# The same Python with its headers and a C compiler, for the stages that build. With COMPILE=0 the hot path stays
# plain Python, and BASE will do here, too.
ARG COMPILER=python:3.11.14-bookworm


# What the service depends on, as locked. Rebuilt only when the lock changes.
FROM ${COMPILER} AS dependencies

# Where packages are reached only through a pip configuration or a private CA, the build gets them as secrets:
# they are there while pip runs and in no layer.
ENV PIP_CONFIG_FILE=/run/secrets/pip_conf \
    PIP_CACHE_DIR=/build/cache \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY requirements/run.txt /build/requirements/
# pip works from an environment of its own, so that the service's holds nothing but the service.
# Only wheels: with a compiler's absence, what is not there fails here instead of at the first letter. Some bring
# their own tests, which nobody runs here.
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates --mount=type=cache,target=/build/cache \
    python3 -m venv --without-pip /opt/mailsender \
    && python3 -m venv /build/tools \
    && /build/tools/bin/pip --python /opt/mailsender/bin/python install --quiet \
        --require-hashes --only-binary :all: --requirement /build/requirements/run.txt \
    && find /opt/mailsender -type d -name tests -prune -exec rm -r {} +


# The project itself, as a wheel, installed into an empty tree.
FROM dependencies AS project

COPY requirements/build.txt /build/requirements/
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates --mount=type=cache,target=/build/cache \
    /build/tools/bin/pip install --quiet \
        --require-hashes --only-binary :all: --requirement /build/requirements/build.txt
ARG COMPILE=1
WORKDIR /build/source
COPY pyproject.toml build_hook.py README.md LICENSE ./
COPY mailsender mailsender
RUN MAILSENDER_COMPILE="${COMPILE}" /build/tools/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /build/wheel . \
    && /build/tools/bin/pip --python /opt/mailsender/bin/python install --quiet \
        --no-index --no-deps --no-warn-script-location --root /build/root /build/wheel/*.whl


FROM ${BASE}

LABEL org.opencontainers.image.title="mailsender" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.description="A Kafka-native mail dispatcher: batches in, letters queued in MongoDB, sent over SMTP within a rate, each answered once"

# The root file system may be read-only; nothing is written but to /tmp and MAILSENDER_STATE_DIR, if at all.
ENV PATH=/opt/mailsender/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
# Where MAILSENDER_STATE_DIR may point to; a volume that is mounted there for the first time gets its owner.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/mailsender
# A number: Kubernetes' runAsNonRoot cannot judge a name.
USER 10001:10001
EXPOSE 8000
# The drain: it begins at once and ends within DRAIN_TIMEOUT, so a runtime that kills must wait longer than that.
STOPSIGNAL SIGTERM
# Whether the process answers. Kafka or MongoDB being away is no reason to replace it: it waits for them.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["mailsender", "health"]
ENTRYPOINT ["mailsender"]
CMD ["run"]

COPY --from=dependencies /opt/mailsender /opt/mailsender
# All that a change of the code rebuilds.
COPY --from=project /build/root/opt/mailsender /opt/mailsender

ARG BASE
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
