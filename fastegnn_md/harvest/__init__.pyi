from .adapting import Adapted as Adapted
from .adapting import adapt as adapt
from .harvesting import harvest as harvest
from .seed_run import Seeded as Seeded
from .seeding import seeds as seeds
