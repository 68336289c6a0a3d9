# The same commands as in CONTRIBUTING.md and in continuous integration; each sets up what is missing first.
.PHONY: check test test-root test-vm test-guest fix

check: ## linters, types, import contracts, and the tests that need no root: under a minute
	scripts/test tests/unit tests/contract tests/arch

test: ## everything that can run here; what cannot is skipped with its reason
	scripts/test

test-root: ## the container runtime, cgroups and engines
	scripts/setup --tests
	.venv/bin/pytest --require=root,overlayfs tests/integration

test-vm: ## virtual machines from end to end; software emulation where there is no KVM
	scripts/setup --tests
	.venv/bin/pytest --require=root,qemu,libvirt,kernel,erofs tests/vm

test-guest: ## the container runtime on cgroup v2 alone, and v1 alone, in guests with the distribution's kernel
	scripts/setup --tests
	.venv/bin/pytest --require=root,qemu,libvirt,kernel,erofs,apt tests/vm/test_container_guest.py

fix: ## what the linters can repair by themselves
	scripts/setup --tests
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
