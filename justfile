# The recipes are the steps of continuous integration (.ci/run), one by one.

# List the recipes.
default:
    @just --list

# Everything that CI runs.
ci:
    ./.ci/run

# Start the whole thing locally: nats-server, broker, gateway and two services.
dev *ARGS:
    cargo run --release -- dev {{ARGS}}

# All tests; end-to-end ones start their own nats-server.
test *ARGS:
    cargo test --workspace {{ARGS}}

fmt:
    cargo fmt --all

lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Licences, duplicate providers and the direction of dependencies.
deny:
    cargo deny --locked check bans licenses sources

# Sealed messages beside raw NATS, in one run.
bench:
    cargo bench -p bulla-benches
