from contextlib import contextmanager


class Meter:
    def __init__(self, token, trial):
        pass

    @contextmanager
    def inside(self):
        yield

    def memory(self):
        return None

    def remove(self):
        pass
