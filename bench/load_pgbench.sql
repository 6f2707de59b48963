CALL load(:n, :rare_every);
