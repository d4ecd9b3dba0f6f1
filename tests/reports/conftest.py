import pytest
import synthetic

from mixkd.store import Store
from reports.evidence import load


@pytest.fixture
def store(tmp_path):
    """An empty one."""
    return Store(tmp_path)


@pytest.fixture(scope="session")
def evidence(tmp_path_factory):
    """A synthetic store in which every claim is true."""
    store = Store(tmp_path_factory.mktemp("evidence"))
    synthetic.save_all(store)
    return load(store, synthetic.STUDIES)
