pytest examples
