# Two commands for newcomers: `make demo` shows lifeboat at work, `make test` runs everything CI runs.
.PHONY: demo test bench fmt

demo:  ## install Postgres if missing, back up a sample database, restore it, compare, show
	@scripts/install demo
	@scripts/demo

test:  ## fmt, clippy, all tests, docs
	@scripts/install test
	@scripts/test

bench:  ## measure lifeboat against a pipe of stock tools on about 1.5 GB; takes some minutes
	@scripts/install test
	@scripts/bench

fmt:
	cargo fmt
