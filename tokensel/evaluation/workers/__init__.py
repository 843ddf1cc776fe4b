"""Several workers that answer one sweep: processes on this machine, actors of Ray, or jobs of Slurm.

Each worker holds the model and answers batches for the whole grid; one driver hands them out and alone writes.

    spec.py         what a worker is told: where model, questions and points come from; batches; replies
    answering.py    what a worker does
    dispatch.py     what the driver does
    suspects.py     which question or point of a batch kills its workers
    crew.py         how the driver speaks to workers; local.py, ray_actors.py and slurm_jobs.py are the three ways
"""
