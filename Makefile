.PHONY: help demo test mutants fuzz bench fmt

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1|\2/p' Makefile | column -t -s '|'

demo:  ## install Postgres if missing, back up a sample database, restore it, compare, rehearse, show
	@scripts/install demo
	@scripts/demo

test:  ## everything CI runs: fmt, clippy, all tests, docs
	@scripts/install test
	@scripts/test

mutants:  ## which changes of the pure decisions does no unit test notice? (two to three hours)
	@scripts/mutants

fuzz:  ## fuzz every parser of foreign bytes, guided by coverage (two hours; scripts/fuzz SECONDS TARGET… for less)
	@scripts/install test
	@scripts/fuzz

bench:  ## measure lifeboat against a pipe of stock tools on about 1.5 GB (some minutes)
	@scripts/install test
	@scripts/bench

fmt:  ## format the code
	cargo fmt
