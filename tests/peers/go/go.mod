module graceful.test/peer

go 1.21

require github.com/gobwas/graceful v0.0.0-20171110045521-377d7e4ad440
