pytest test_deaths.py -k 'crashes or engine'
