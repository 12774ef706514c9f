pytest --pdb
